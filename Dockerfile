# SPDX-License-Identifier: Apache-2.0
# The image, for those who build with Docker; `cargo xtask image` makes it without.
#
#   docker build --tag ghcr.io/meshmedic/meshmedic:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 --output type=oci,dest=meshmedic.tar .
#
# A platform other than the machine's own builds under emulation: slow, and the same steps for all.

# The version is that of rust-toolchain.toml, the digest that of the index over all platforms. On Alpine the program
# is linked with musl, and so needs nothing beside itself.
FROM docker.io/library/rust:1.95.0-alpine3.23@sha256:606fd313a0f49743ee2a7bd49a0914bab7deedb12791f3a846a34a4711db7ed2 AS build
WORKDIR /src
COPY . .
# One folder of built things for each platform: they cannot use each other's.
ARG TARGETARCH
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=meshmedic-target-${TARGETARCH} \
    cargo build --locked --release --package meshmedic-cli --bin meshmedic \
    && install -D target/release/meshmedic /image/usr/bin/meshmedic \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && touch /image/etc/passwd /image/etc/group

FROM scratch
# The commit: --build-arg REVISION="$(git rev-parse HEAD)"
ARG REVISION=""
LABEL org.opencontainers.image.title="MeshMedic" \
      org.opencontainers.image.description="Finds and heals pods that silently fell out of an Istio ambient mesh" \
      org.opencontainers.image.vendor="The MeshMedic authors" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.url="https://github.com/meshmedic/meshmedic" \
      org.opencontainers.image.source="https://github.com/meshmedic/meshmedic" \
      org.opencontainers.image.documentation="https://github.com/meshmedic/meshmedic/blob/main/README.md" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
ENV PATH=/usr/bin
# Nobody in particular. The DaemonSet asks for root by itself, which its capabilities need.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/bin/meshmedic"]
