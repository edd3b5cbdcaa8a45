
# A pod of the application, out of the mesh: ztunnel closes its listeners
POD=$(kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pods --namespace meshmedic-sample --selector app=echo --output 'jsonpath={.items[0].metadata.name}')
kubectl --kubeconfig target/kind/meshmedic.kubeconfig label pod "$POD" --namespace meshmedic-sample istio.io/dataplane-mode=none
kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pod "$POD" --namespace meshmedic-sample --output 'jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}'  # again until no output, for 300 s at most

# And istio-cni believes that it is in: an orphan
kubectl --kubeconfig target/kind/meshmedic.kubeconfig patch pod "$POD" --namespace meshmedic-sample --type merge --patch '{"metadata":{"labels":{"istio.io/dataplane-mode":null},"annotations":{"ambient.istio.io/redirection":"enabled"}}}'
