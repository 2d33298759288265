#!/bin/sh
# Builds the image, and pushes it or loads it into kind or minikube, with the container engine that is there.
# Usage: image.sh build|push|load IMAGE [OPTION OF THE BUILD...]
set -eu
cd "$(dirname "$0")"

fail() {
    echo "error: $*" >&2
    exit 64
}

what=$1 image=$2
shift 2

# A node keeps what it has by a tag, so `latest` is whatever was the latest on each of them.
case ${image##*/} in
    *:latest) fail "IMAGE=$image would be another image on every node: name a version" ;;
    *:?*) ;;
    *) fail "IMAGE=$image needs a tag: IMAGE=$image:1" ;;
esac

# The first whose engine answers: a client alone is not enough.
engine=
for candidate in docker podman buildah; do
    if "$candidate" info >/dev/null 2>&1; then
        engine=$candidate
        break
    fi
done
[ -n "$engine" ] || fail "no container engine answers: start docker or podman, or install buildah"

build() {
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
    revision=$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) || revision=unknown
    # Docker: pass over the other target's stages; no attestation, which would give each build a digest of its own.
    # Buildah: take layers that are there, as the others do.
    DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 BUILDAH_LAYERS=true "$engine" build --tag "$image" \
        --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision" \
        "$@" . >&2
}

push() {  # prints the name by which a cluster gets these very bytes
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
    else  # by the very name: they put localhost/ before one without a registry, and a node does not
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
        case $image in */*) ;; *) fail "IMAGE=$image names no registry: IMAGE=registry.example/you/$image" ;; esac
        build "$@"
        push
        ;;
    load)
        context=$(kubectl config current-context 2>/dev/null) || fail "kubectl has no current context"
        case $context in
            kind-*) ;;
            *) minikube --profile "$context" status >/dev/null 2>&1 ||
                fail "the current context, $context, is not kind's, nor a running minikube's: make push instead" ;;
        esac
        build "$@"
        load
        ;;
    *) fail "build, push or load, not $what" ;;
esac
