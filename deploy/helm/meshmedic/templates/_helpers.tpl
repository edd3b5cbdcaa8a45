{{/*
The agents are one fleet: one DaemonSet a cluster, under one name, whatever the release is called. The commands of
`meshmedic` look for it by that name.
*/}}
{{- define "meshmedic.labels" -}}
app.kubernetes.io/name: meshmedic
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "meshmedic.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* "true" where the agents may repair something, and by which ways. */}}
{{- define "meshmedic.repairs" -}}
{{- if or .Values.agent.autoRepair .Values.agent.repairStuck -}}true{{- end -}}
{{- end }}

{{- define "meshmedic.heals" -}}
{{- if and (include "meshmedic.repairs" .) (contains "heal" (.Values.agent.strategy | default "heal,restart")) -}}true{{- end -}}
{{- end }}

{{- define "meshmedic.restarts" -}}
{{- if and (include "meshmedic.repairs" .) (contains "restart" (.Values.agent.strategy | default "heal,restart")) -}}true{{- end -}}
{{- end }}

{{/* "true" where the API server narrows the agents' rights: it has the policies, and tokens that name their node. */}}
{{- define "meshmedic.policies" -}}
{{- if and .Values.admissionPolicies.enabled (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}true{{- end -}}
{{- end }}

{{- define "meshmedic.binding" -}}
{{- $cluster := and (eq .kind "ClusterRole") (not .in) -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "ClusterRoleBinding" "RoleBinding" $cluster }}
metadata:
  name: {{ .name }}
  {{- if not $cluster }}
  namespace: {{ .in | default .root.Release.Namespace }}
  {{- end }}
  labels:
    {{- include "meshmedic.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .root.Values.serviceAccount.name }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}

{{/* What changes pods is granted everywhere, or in the namespaces that were named. */}}
{{- define "meshmedic.bindings" -}}
{{- range .root.Values.rbac.namespaces }}
---
{{ include "meshmedic.binding" (dict "root" $.root "kind" "ClusterRole" "name" $.name "in" .) }}
{{- else }}
---
{{ include "meshmedic.binding" (dict "root" .root "kind" "ClusterRole" "name" .name) }}
{{- end }}
{{- end }}

{{/* What stands in the metadata of everything that `helm test` makes: not the label by which agents are found. */}}
{{- define "meshmedic.testMetadata" -}}
{{- if not (hasPrefix "ClusterRole" .kind) -}}
namespace: {{ .root.Release.Namespace }}
{{ end -}}
labels:
  {{- omit (fromYaml (include "meshmedic.labels" .root)) "app.kubernetes.io/name" | toYaml | nindent 2 }}
  app.kubernetes.io/name: meshmedic-test
  istio.io/dataplane-mode: none
annotations:
  helm.sh/hook: test
  # What the pod needs comes before it.
  helm.sh/hook-weight: {{ ternary "1" "0" (eq .kind "Pod") | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
