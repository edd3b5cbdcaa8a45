
# Nobody is out of the mesh
cargo run --quiet --locked --package meshmedic-cli -- scan --namespace meshmedic-sample --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 0

# A pod of the application, out of the mesh: ztunnel closes its listeners
POD=$(kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pods --namespace meshmedic-sample --selector app=echo --output 'jsonpath={.items[0].metadata.name}')
kubectl --kubeconfig target/kind/meshmedic.kubeconfig label pod "$POD" --namespace meshmedic-sample istio.io/dataplane-mode=none
kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pod "$POD" --namespace meshmedic-sample --output 'jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}'  # again until no output, for 300 s at most

# And istio-cni believes that it is in: an orphan
kubectl --kubeconfig target/kind/meshmedic.kubeconfig patch pod "$POD" --namespace meshmedic-sample --type merge --patch '{"metadata":{"labels":{"istio.io/dataplane-mode":null},"annotations":{"ambient.istio.io/redirection":"enabled"}}}'
# the clock starts: the loss of the pod's capture

# Found, and told of: an Event, the metrics of the node's agent, the scan and its exit code
kubectl --kubeconfig target/kind/meshmedic.kubeconfig get events --namespace meshmedic-sample --field-selector "involvedObject.name=$POD,reason=MeshCaptureLost" --output name  # again until some output, for 120 s at most: an Event tells of it
NODE=$(kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pods --namespace meshmedic-sample --field-selector "metadata.name=$POD" --output 'jsonpath={.items[0].spec.nodeName}')
AGENT=$(kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pods --namespace meshmedic --selector app.kubernetes.io/name=meshmedic --field-selector "spec.nodeName=$NODE,status.phase=Running" --output 'jsonpath={.items[0].metadata.name}')
kubectl --kubeconfig target/kind/meshmedic.kubeconfig get --raw "/api/v1/namespaces/meshmedic/pods/$AGENT:9100/proxy/metrics"  # again until meshmedic_orphans_total 1 in its output, for 120 s at most: a metric tells of it
cargo run --quiet --locked --package meshmedic-cli -- scan --namespace meshmedic-sample --output wide --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 1
cargo run --quiet --locked --package meshmedic-cli -- repair --namespace meshmedic-sample --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 1

# Healed, once the agents may: by eviction, and only after the successor was proved captured
kubectl --kubeconfig target/kind/meshmedic.kubeconfig apply --kustomize deploy/kustomize/repair
# the clock starts: the permission to repair
kubectl --kubeconfig target/kind/meshmedic.kubeconfig rollout status daemonset/meshmedic --namespace meshmedic --timeout 3m
kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pod "$POD" --namespace meshmedic-sample --ignore-not-found --output name  # again until no output, for 300 s at most: the pod is evicted
kubectl --kubeconfig target/kind/meshmedic.kubeconfig get events --namespace meshmedic-sample --field-selector "involvedObject.name=$POD,reason=MeshRepairSucceeded" --output name  # again until some output, for 300 s at most: an Event tells that its successor is captured
AGENT=$(kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pods --namespace meshmedic --selector app.kubernetes.io/name=meshmedic --field-selector "spec.nodeName=$NODE,status.phase=Running" --output 'jsonpath={.items[0].metadata.name}')
kubectl --kubeconfig target/kind/meshmedic.kubeconfig get --raw "/api/v1/namespaces/meshmedic/pods/$AGENT:9100/proxy/metrics"  # again until meshmedic_repairs_total{action="evict",result="succeeded"} 1 in its output, for 120 s at most: a metric tells of the repair
cargo run --quiet --locked --package meshmedic-cli -- scan --namespace meshmedic-sample --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 0
cargo run --quiet --locked --package meshmedic-cli -- status --kubeconfig target/kind/meshmedic.kubeconfig  # exit code 0

# Back to detection alone
kubectl --kubeconfig target/kind/meshmedic.kubeconfig delete --kustomize deploy/kustomize/repair
kubectl --kubeconfig target/kind/meshmedic.kubeconfig apply --filename deploy/meshmedic-daemonset.yaml
