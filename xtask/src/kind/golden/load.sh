
# The image, onto every node
cargo xtask image --out target/kind
kind load image-archive target/kind/meshmedic-0.1.0-linux-amd64.tar --name meshmedic

# An agent on every node, which detects and changes nothing
kubectl --kubeconfig target/kind/meshmedic.kubeconfig apply --filename deploy/meshmedic-daemonset.yaml
kubectl --kubeconfig target/kind/meshmedic.kubeconfig rollout restart daemonset/meshmedic --namespace meshmedic
kubectl --kubeconfig target/kind/meshmedic.kubeconfig rollout status daemonset/meshmedic --namespace meshmedic --timeout 3m
