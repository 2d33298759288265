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

# The first engine that answers: an installed client alone is not enough.
engine=
for candidate in docker podman buildah; do
    if "$candidate" info >/dev/null 2>&1; then
        engine=$candidate
        break
    fi
done
[ -n "$engine" ] || fail "no container engine answers: start docker or podman, or install buildah"

build() {
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' job/__init__.py)
    revision=$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) || revision=unknown
    # Docker: BuildKit skips the stages of other targets; an attestation would give each build another digest.
    # Buildah: reuse layers, as the other engines do by default.
    DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 BUILDAH_LAYERS=true "$engine" build --tag "$image" \
        --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision" \
        "$@" . >&2
}

push() {  # prints the image's name by digest
    if [ "$engine" = docker ]; then
        docker push "$image" | tee "$scratch/log" >&2
        sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' "$scratch/log" >"$scratch/digest"
    else
        "$engine" push --digestfile "$scratch/digest" "$image" >&2
    fi
    [ -s "$scratch/digest" ] || fail "$image was not pushed"
    echo "${image%:*}@$(cat "$scratch/digest")"
}

load() {
    if [ "$engine" = docker ]; then
        docker save --output "$scratch/image.tar" "$image"
    else  # under this exact name: podman and buildah add localhost/ to a name without a registry, and nodes do not
        "$engine" push --quiet "$image" "docker-archive:$scratch/image.tar:$image"
    fi
    case $context in
        kind-*) kind load image-archive "$scratch/image.tar" --name "${context#kind-}" ;;
        *) minikube --profile "$context" image load "$scratch/image.tar" ;;
    esac
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
        context=$(kubectl config current-context 2>/dev/null) || fail "kubectl has no current context"
        case $context in
            kind-*) ;;
            *) minikube --profile "$context" status >/dev/null 2>&1 ||
                fail "the current context, $context, is neither kind nor a running minikube: use make push instead" ;;
        esac
        build "$@"
        load
        ;;
    *) fail "the command must be build, push or load, not $what" ;;
esac
