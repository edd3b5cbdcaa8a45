
# A node that hosts the application goes down hard, and comes back
NODE=$(kubectl --kubeconfig target/kind/meshmedic.kubeconfig get pods --namespace meshmedic-sample --selector app=echo --output 'jsonpath={.items[0].spec.nodeName}')
docker restart -t 0 "$NODE"

# Its pods start anew. Which of them istio-cni misses is a race: some, all, or none
docker exec "$NODE" crictl pods --namespace meshmedic-sample --state Ready --quiet  # again until some output, for 300 s at most
kubectl --kubeconfig target/kind/meshmedic.kubeconfig wait node "$NODE" --for condition=Ready --timeout 3m
kubectl --kubeconfig target/kind/meshmedic.kubeconfig rollout status daemonset/ztunnel --namespace istio-system --timeout 3m
kubectl --kubeconfig target/kind/meshmedic.kubeconfig rollout status deployment/echo --namespace meshmedic-sample --timeout 3m

# Who fell out: cargo run --package meshmedic-cli -- scan --kubeconfig target/kind/meshmedic.kubeconfig
