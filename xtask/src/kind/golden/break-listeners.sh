
# A pod of the application, out of the mesh: ztunnel closes its listeners
POD=$(kubectl get pods --namespace meshmedic-sample --selector app=echo --output 'jsonpath={.items[0].metadata.name}' --kubeconfig target/kind/meshmedic.kubeconfig)
kubectl label pod "$POD" --namespace meshmedic-sample istio.io/dataplane-mode=none --kubeconfig target/kind/meshmedic.kubeconfig
kubectl get pod "$POD" --namespace meshmedic-sample --output 'jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}' --kubeconfig target/kind/meshmedic.kubeconfig  # again until no output, for 300 s at most

# And istio-cni believes that it is in: an orphan
kubectl patch pod "$POD" --namespace meshmedic-sample --type merge --patch '{"metadata":{"labels":{"istio.io/dataplane-mode":null},"annotations":{"ambient.istio.io/redirection":"enabled"}}}' --kubeconfig target/kind/meshmedic.kubeconfig
