
# Nobody is out of the mesh
cargo run --quiet --locked --package meshmedic-cli -- scan --namespace meshmedic-sample --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 0

# A pod of the application, out of the mesh: ztunnel closes its listeners
POD=$(kubectl get pods --namespace meshmedic-sample --selector app=echo --output 'jsonpath={.items[0].metadata.name}' --kubeconfig target/kind/meshmedic.kubeconfig)
kubectl label pod "$POD" --namespace meshmedic-sample istio.io/dataplane-mode=none --kubeconfig target/kind/meshmedic.kubeconfig
kubectl get pod "$POD" --namespace meshmedic-sample --output 'jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}' --kubeconfig target/kind/meshmedic.kubeconfig  # again until no output, for 300 s at most

# And istio-cni believes that it is in: an orphan
kubectl patch pod "$POD" --namespace meshmedic-sample --type merge --patch '{"metadata":{"labels":{"istio.io/dataplane-mode":null},"annotations":{"ambient.istio.io/redirection":"enabled"}}}' --kubeconfig target/kind/meshmedic.kubeconfig
# the clock starts: the loss of the pod's capture

# Found, and told of: an Event, the metrics of the node's agent, the scan and its exit code
kubectl get events --namespace meshmedic-sample --field-selector "involvedObject.name=$POD,reason=MeshCaptureLost" --output name --kubeconfig target/kind/meshmedic.kubeconfig  # again until some output, for 120 s at most: an Event tells of it
NODE=$(kubectl get pods --namespace meshmedic-sample --field-selector "metadata.name=$POD" --output 'jsonpath={.items[0].spec.nodeName}' --kubeconfig target/kind/meshmedic.kubeconfig)
AGENT=$(kubectl get pods --namespace meshmedic --selector app.kubernetes.io/name=meshmedic --field-selector "spec.nodeName=$NODE,status.phase=Running" --output 'jsonpath={.items[0].metadata.name}' --kubeconfig target/kind/meshmedic.kubeconfig)
kubectl get --raw "/api/v1/namespaces/meshmedic/pods/$AGENT:9100/proxy/metrics" --kubeconfig target/kind/meshmedic.kubeconfig  # again until meshmedic_orphans_total 1 in its output, for 120 s at most: a metric tells of it
cargo run --quiet --locked --package meshmedic-cli -- scan --namespace meshmedic-sample --output wide --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 1
cargo run --quiet --locked --package meshmedic-cli -- repair --namespace meshmedic-sample --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 1

# Healed, once the agents may: by eviction, and only after the successor was proved captured
kubectl apply --kustomize deploy/kustomize/repair --kubeconfig target/kind/meshmedic.kubeconfig
# the clock starts: the permission to repair
kubectl rollout status daemonset/meshmedic --namespace meshmedic --timeout 3m --kubeconfig target/kind/meshmedic.kubeconfig
kubectl get pod "$POD" --namespace meshmedic-sample --ignore-not-found --output name --kubeconfig target/kind/meshmedic.kubeconfig  # again until no output, for 300 s at most: the pod is evicted
kubectl get events --namespace meshmedic-sample --field-selector "involvedObject.name=$POD,reason=MeshRepairSucceeded" --output name --kubeconfig target/kind/meshmedic.kubeconfig  # again until some output, for 300 s at most: an Event tells that its successor is captured
AGENT=$(kubectl get pods --namespace meshmedic --selector app.kubernetes.io/name=meshmedic --field-selector "spec.nodeName=$NODE,status.phase=Running" --output 'jsonpath={.items[0].metadata.name}' --kubeconfig target/kind/meshmedic.kubeconfig)
kubectl get --raw "/api/v1/namespaces/meshmedic/pods/$AGENT:9100/proxy/metrics" --kubeconfig target/kind/meshmedic.kubeconfig  # again until meshmedic_repairs_total{action="evict",result="succeeded"} 1 in its output, for 120 s at most: a metric tells of the repair
cargo run --quiet --locked --package meshmedic-cli -- scan --namespace meshmedic-sample --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 0
cargo run --quiet --locked --package meshmedic-cli -- status --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 0

# Back to detection alone
kubectl delete --kustomize deploy/kustomize/repair --kubeconfig target/kind/meshmedic.kubeconfig
kubectl apply --filename deploy/meshmedic-daemonset.yaml --kubeconfig target/kind/meshmedic.kubeconfig
