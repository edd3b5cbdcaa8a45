kind delete cluster --name meshmedic --kubeconfig target/kind/meshmedic.kubeconfig
