
# The image, onto every node
cargo xtask image --out target/kind
kind load image-archive --name meshmedic target/kind/meshmedic-0.1.0-linux-amd64.tar

# An agent on every node, which detects and changes nothing
kubectl apply --filename deploy/meshmedic-daemonset.yaml --kubeconfig target/kind/meshmedic.kubeconfig
kubectl rollout restart daemonset/meshmedic --namespace meshmedic --kubeconfig target/kind/meshmedic.kubeconfig
kubectl rollout status daemonset/meshmedic --namespace meshmedic --timeout 3m --kubeconfig target/kind/meshmedic.kubeconfig
