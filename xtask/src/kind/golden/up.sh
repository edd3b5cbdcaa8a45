
# A cluster of three nodes
kind create cluster --name meshmedic --config deploy/kind/cluster.yaml --kubeconfig target/kind/meshmedic.kubeconfig --wait 3m

# Istio in ambient mode
istioctl install --set profile=ambient --skip-confirmation --kubeconfig target/kind/meshmedic.kubeconfig

# An application in the mesh
kubectl --kubeconfig target/kind/meshmedic.kubeconfig apply --filename deploy/kind/sample.yaml
kubectl --kubeconfig target/kind/meshmedic.kubeconfig rollout status deployment/echo --namespace meshmedic-sample --timeout 3m
kubectl --kubeconfig target/kind/meshmedic.kubeconfig wait pod --namespace meshmedic-sample --selector app=echo --for 'jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}=enabled' --timeout 2m

# To look at it yourself: export KUBECONFIG=target/kind/meshmedic.kubeconfig
