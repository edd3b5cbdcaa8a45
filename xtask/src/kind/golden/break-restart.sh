
# A node that hosts the application goes down hard, and comes back
NODE=$(kubectl get pods --namespace meshmedic-sample --selector app=echo --output 'jsonpath={.items[0].spec.nodeName}' --kubeconfig target/kind/meshmedic.kubeconfig)
docker restart -t 0 "$NODE"

# Its pods start anew. Which of them istio-cni misses is a race: some, all, or none
docker exec "$NODE" crictl pods --namespace meshmedic-sample --state Ready --quiet  # again until some output, for 300 s at most
kubectl wait node "$NODE" --for condition=Ready --timeout 3m --kubeconfig target/kind/meshmedic.kubeconfig
kubectl rollout status daemonset/ztunnel --namespace istio-system --timeout 3m --kubeconfig target/kind/meshmedic.kubeconfig
kubectl rollout status deployment/echo --namespace meshmedic-sample --timeout 3m --kubeconfig target/kind/meshmedic.kubeconfig

# Who fell out: cargo run --package meshmedic-cli -- scan --kubeconfig target/kind/meshmedic.kubeconfig
