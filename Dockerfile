# The image of the service `trust-auth`: a static program, the authorities for TLS to PostgreSQL,
# and an empty folder for a SQLite file. There is no shell, and no package.
#
#   docker build -t trust-auth .
#
# `scripts/image.py` builds and checks the same image without Docker.
FROM rust:1.95-slim-bookworm AS build
# The image pins Debian's release. A pinned version leaves Debian's archive with the next one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -qy --no-install-recommends ca-certificates musl-tools \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" \
    && cargo build --locked --profile dist -p trust-auth-server --target "$target" \
    && rm -rf target/image \
    && install -D -s -t target/image/usr/bin "target/$target/dist/trust-auth" \
    && install -D -m 644 -t target/image/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt \
    && install -d -m 700 target/image/state

FROM scratch
COPY --from=build /src/target/image/usr /usr
COPY --from=build /src/target/image/etc /etc
COPY --from=build --chown=65532:65532 /src/target/image/state /var/lib/trust-auth
# A user of no other image and of no machine, so that it owns nothing else.
USER 65532:65532
WORKDIR /var/lib/trust-auth
# The admin API stays on the container's loopback address until TRUST_AUTH_ADMIN_LISTEN is set.
ENV TRUST_AUTH_LISTEN=0.0.0.0:8080 TRUST_AUTH_LOG_FORMAT=json
EXPOSE 8080
# No HEALTHCHECK: the program has no command for it, and the image no other program. An orchestrator
# asks /healthz and /readyz.
ENTRYPOINT ["/usr/bin/trust-auth"]
CMD ["serve"]
