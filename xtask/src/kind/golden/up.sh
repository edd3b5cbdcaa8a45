
# A cluster of three nodes
kind create cluster --name meshmedic --config deploy/kind/cluster.yaml --wait 3m --kubeconfig target/kind/meshmedic.kubeconfig

# Istio in ambient mode
istioctl install --set profile=ambient --skip-confirmation --kubeconfig target/kind/meshmedic.kubeconfig

# An application in the mesh
kubectl apply --filename deploy/kind/sample.yaml --kubeconfig target/kind/meshmedic.kubeconfig
kubectl rollout status deployment/echo --namespace meshmedic-sample --timeout 3m --kubeconfig target/kind/meshmedic.kubeconfig
kubectl wait pod --namespace meshmedic-sample --selector app=echo --for 'jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}=enabled' --timeout 2m --kubeconfig target/kind/meshmedic.kubeconfig

# To look at it yourself: export KUBECONFIG=target/kind/meshmedic.kubeconfig
