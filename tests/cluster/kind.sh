#!/bin/sh
# Makes a kind cluster for the tests; breaks the kind cluster that is kubectl's current context, and repairs it.
# Usage: kind.sh up [OPTION OF kind create cluster...]
#        kind.sh net cut|join NODE
#        kind.sh daemon stop|start coredns|kube-apiserver
#        kind.sh gpus NODE NUMBER
# Needs docker, whose containers are the nodes.
set -eu

# kind's own provisioner gets a second class, whose volumes are folders in the folder that all nodes mount.
PROVISIONER='{"storageClassConfigs": {
    "standard": {"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/var/local-path-provisioner"]}]},
    "shared": {"sharedFileSystemPath": "/var/shared"}}}'
CLASS='{"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "shared"},
    "provisioner": "rancher.io/local-path", "volumeBindingMode": "Immediate"}'

volumes() {
    echo "$CLASS" | kubectl apply -f -
    kubectl -n local-path-storage create configmap local-path-config --dry-run=client --output=json \
        --from-literal=config.json="$PROVISIONER" |
        kubectl -n local-path-storage patch configmap local-path-config --patch-file=/dev/stdin
    kubectl -n local-path-storage rollout restart deployment/local-path-provisioner
    kubectl -n local-path-storage rollout status deployment/local-path-provisioner --timeout=600s
}

control_plane() {
    context=$(kubectl config current-context)
    docker exec "${context#kind-}-control-plane" "$@"
}

case "$*" in
    up | "up "*)
        shift
        kind create cluster --wait=300s --config="$(dirname "$0")/kind.yaml" "$@"
        volumes
        ;;
    "net cut "* | "net join "*)
        # A node's eth0 has its other end on docker's host. A container in the host's network reaches that end.
        index=$(docker exec "$3" cat /sys/class/net/eth0/iflink)
        [ "$2" = cut ] && state=down || state=up
        docker run --rm --network=host --cap-add=NET_ADMIN --entrypoint=ip \
            "$(docker inspect --format='{{.Image}}' "$3")" link set dev "if$index" "$state"
        ;;
    "daemon stop coredns")
        kubectl -n kube-system scale deployment/coredns --replicas=0
        kubectl -n kube-system wait pod -l k8s-app=kube-dns --for=delete --timeout=300s
        ;;
    "daemon start coredns")
        kubectl -n kube-system scale deployment/coredns --replicas=2
        kubectl -n kube-system rollout status deployment/coredns --timeout=300s
        ;;
    "daemon stop kube-apiserver")
        control_plane mv /etc/kubernetes/manifests/kube-apiserver.yaml /kind/
        # The kubelet ends the container some seconds later.
        while [ -n "$(control_plane crictl ps --quiet --name='^kube-apiserver$')" ]; do sleep 1; done
        ;;
    "daemon start kube-apiserver")
        control_plane mv /kind/kube-apiserver.yaml /etc/kubernetes/manifests/
        ;;
    "gpus "*)
        [ "$3" = 0 ] && number=null || number="\"$3\""
        number="{\"nvidia.com/gpu\":$number}"
        kubectl patch node "$2" --subresource=status --type=merge \
            --patch="{\"status\":{\"capacity\":$number,\"allocatable\":$number}}"
        ;;
    *)
        sed -n '3,6s/^# //p' "$0" >&2
        exit 64
        ;;
esac
