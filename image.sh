#!/bin/sh
# Builds the image and pushes it, or loads it into kind or minikube, with docker, podman or buildah.
# Usage: image.sh build|push|load IMAGE [OPTION OF THE BUILD...]
set -eu
cd "$(dirname "$0")"

fail() {
    echo "error: $*" >&2
    exit 64
}

what=$1 image=$2
shift 2

# A node keeps the image that it once pulled under a tag, so `latest` may differ from node to node.
case ${image##*/} in
    *:latest) fail "IMAGE=$image could be a different image on every node: use a version as the tag, such as ${image%:*}:1" ;;
    *:?*) ;;
    *) fail "IMAGE=$image needs a tag: IMAGE=$image:1" ;;
esac

# The first engine that answers and can build: an installed client alone is not enough, and Docker's needs its plugin
# buildx. Without BuildKit, Docker would build the stages of other targets too.
export DOCKER_BUILDKIT=1
engine='' without_buildx=''
for candidate in docker podman buildah; do
    "$candidate" info >/dev/null 2>&1 || continue
    if "$candidate" build --help >/dev/null 2>&1; then
        engine=$candidate
        break
    fi
    without_buildx="docker lacks its plugin buildx, so it cannot build the image"
done
if [ -z "$engine" ]; then
    [ -z "$without_buildx" ] || fail "$without_buildx: install that plugin, or podman or buildah"
    fail "no container engine answers: start docker or podman, or install buildah"
fi
[ -z "$without_buildx" ] || echo "$without_buildx: using $engine" >&2

build() {
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' job/__init__.py)
    revision=$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) || revision=unknown
    # Docker: an attestation would give each build another digest.
    # Buildah: reuse layers, as the other engines do by default.
    BUILDX_NO_DEFAULT_ATTESTATIONS=1 BUILDAH_LAYERS=true "$engine" build --tag "$image" \
        --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision" \
        "$@" . >&2
}

push() {  # prints the image's name by digest
    if [ "$engine" = docker ]; then
        docker push "$image" | tee "$scratch/log" >&2
        sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' "$scratch/log" >"$scratch/digest"
    else  # nodes unpack zstd several times as fast as gzip, and it is smaller; Docker's engine has no such option
        "$engine" push --compression-format zstd --digestfile "$scratch/digest" "$image" >&2
    fi
    [ -s "$scratch/digest" ] || fail "$image was not pushed"
    echo "${image%:*}@$(cat "$scratch/digest")"
}

save() {  # writes the image as an archive; a pipe's exit code is that of its end, so a failure leaves a mark
    write_archive || : >"$scratch/unsaved"
}

write_archive() {
    if [ "$engine" = docker ]; then
        docker save "$image"
    else  # under this exact name: podman and buildah add localhost/ to a name without a registry, and nodes do not
        "$engine" push --quiet "$image" "docker-archive:/dev/stdout:$image"
    fi
}

progress() {  # copies the input, and shows on a terminal how much
    if [ -t 2 ]; then dd bs=1048576 status=progress; else cat; fi
}

load() {  # through a pipe: an archive on the disk would take as much room as the image, and time of its own
    size=$("$engine" images --format '{{.Size}}' "$image")
    case $context in
        kind-*)
            for node in $nodes; do
                echo "loading $image ($size) into $node" >&2
                save | progress | kind load image-archive /dev/stdin --name "${context#kind-}" --nodes "${node#node/}"
            done
            ;;
        *)
            echo "loading $image ($size) into $context" >&2
            save | progress | minikube --profile "$context" image load -
            ;;
    esac
    [ ! -e "$scratch/unsaved" ] || fail "$engine could not write the whole image $image"
    echo "$image is on the nodes of $context"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
case $what in
    build)
        build "$@"
        ;;
    push)
        case $image in */*) ;; *) fail "IMAGE=$image has no registry: use IMAGE=registry.example/you/$image" ;; esac
        build "$@"
        push
        ;;
    load)
        command -v kubectl >/dev/null || fail "kubectl is not installed; its current context would name the cluster"
        context=$(kubectl config current-context 2>/dev/null) || fail "kubectl has no current context"
        case $context in
            kind-*)
                command -v kind >/dev/null || fail "the current context is $context, but kind is not installed"
                nodes=$(kubectl get nodes --output name) || fail "$context does not list its nodes: is the cluster running?"
                ;;
            *) minikube --profile "$context" status >/dev/null 2>&1 ||
                fail "the current context, $context, is neither kind nor a running minikube: use make push instead, or make image and your cluster's own tool, such as k3d image import" ;;
        esac
        build "$@"
        load
        ;;
    *) fail "the command must be build, push or load, not $what" ;;
esac
