# The service (the default target) and its sandbox (--target sandbox).
#
# The service is the last stage, so `docker build .` makes it. BuildKit skips the stages that a target does not need; the
# classic builder also builds the sandbox.

# The toolchain of rust-toolchain.toml. That file is left out: it would make rustup fetch clippy and rustfmt.
FROM rust:1.95-slim-trixie AS dependencies
# docker-compose.yml sets `compose`, which builds faster.
ARG PROFILE=release
WORKDIR /build
# Lists a binary's crates in the binary itself, where image scanners find them.
RUN cargo install --locked --version 0.7.7 cargo-auditable
COPY Cargo.toml Cargo.lock build.rs ./
COPY e2e/Cargo.toml e2e/
COPY sandbox/Cargo.toml sandbox/
# Empty sources stand in for ours while the dependencies are compiled, so this layer stays until Cargo.lock or a manifest
# changes. Every build names both packages, so that both use the same crates with the same features, and Cargo compiles them
# once.
RUN for crate in src sandbox/src e2e/src e2e/benches; do \
      mkdir -p $crate \
      && echo '//! Empty.' | tee $crate/lib.rs >$crate/main.rs && echo 'fn main() {}' >>$crate/main.rs; \
    done \
 && cp e2e/src/main.rs e2e/benches/core.rs \
 && cargo auditable build --locked --profile $PROFILE --package probation-offender-events --package sandbox


FROM dependencies AS sandbox-build
ARG PROFILE=release
COPY sandbox/src sandbox/src
# Cargo compares times, and a file from a checkout may be older than the layer above.
RUN touch sandbox/src/lib.rs sandbox/src/main.rs \
 && cargo auditable build --locked --profile $PROFILE --package probation-offender-events --package sandbox --bin sandbox \
 && mv target/$PROFILE/sandbox /


# Not distroless, since you change the mini-Delius with sqlite3, which must run in this container: it shares memory with the
# sandbox, and a mount from macOS cannot do that. curl is for the health check, socat for the front in docker-compose.yml.
FROM debian:trixie-slim AS sandbox
RUN apt-get update \
 && apt-get install -y --no-install-recommends curl socat sqlite3 \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 2000 -g 2000 /data
COPY --from=sandbox-build /sandbox /usr/local/bin/
LABEL maintainer="dps-hmpps@digital.justice.gov.uk" \
      org.opencontainers.image.title="probation-offender-events-sandbox" \
      org.opencontainers.image.description="A mini-Delius with community-api, hmpps-auth and an SNS topic, for local use" \
      org.opencontainers.image.source="https://github.com/ministryofjustice/probation-offender-events" \
      org.opencontainers.image.licenses="MIT"
# Listens on all addresses, so that other containers can reach it. Mount a volume on /data to keep the database.
ENV SANDBOX_BIND=0.0.0.0 SANDBOX_DATABASE=/data/delius.sqlite
USER 2000:2000
EXPOSE 8090 8095 8096 4575
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:8096/health/ping", "-o", "/dev/null", "http://127.0.0.1:8090/auth/health/ping"]
ENTRYPOINT ["sandbox"]
CMD ["serve"]


FROM dependencies AS service-build
ARG PROFILE=release
COPY src src
RUN touch src/lib.rs src/main.rs \
 && cargo auditable build --locked --profile $PROFILE --package probation-offender-events --package sandbox \
      --bin probation-offender-events \
 && mv target/$PROFILE/probation-offender-events /


# Contains the C library and the CA certificates, but no shell and no package manager.
FROM gcr.io/distroless/cc-debian13:nonroot
COPY --from=service-build /probation-offender-events /usr/local/bin/
# Kubernetes's runAsNonRoot needs a number; 2000 is the number in all our charts.
USER 2000:2000
EXPOSE 8080
# For docker and docker-compose. Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/probation-offender-events", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/probation-offender-events"]
# These differ in each build, so they come last to keep the layers above cached. The service shows them in /info.
ARG BUILD_NUMBER
ARG GIT_REF
ARG GIT_BRANCH
ENV BUILD_NUMBER=${BUILD_NUMBER} GIT_REF=${GIT_REF} GIT_BRANCH=${GIT_BRANCH}
LABEL maintainer="dps-hmpps@digital.justice.gov.uk" \
      org.opencontainers.image.title="probation-offender-events" \
      org.opencontainers.image.description="Turns changes to offenders in Delius into events on an AWS SNS topic" \
      org.opencontainers.image.source="https://github.com/ministryofjustice/probation-offender-events" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${BUILD_NUMBER}" \
      org.opencontainers.image.revision="${GIT_REF}"
