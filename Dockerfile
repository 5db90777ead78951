# The service (the default target) and its sandbox (--target sandbox).
#
# The sandbox comes first so that the service, as the last stage, is what `docker build .` makes. Builders that look at the
# stages' dependencies skip the sandbox then; the classic one builds it as well.

# The toolchain of rust-toolchain.toml. That file is not copied: it would have rustup fetch clippy and rustfmt for nothing.
FROM rust:1.95-slim-bookworm AS manifests
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
COPY sandbox/Cargo.toml sandbox/
# Sources that are empty, so that the dependencies can be compiled before ours are there: that layer stays until Cargo.lock
# or a manifest changes. (A crate without documentation is refused, hence the first line.)
RUN mkdir -p src sandbox/src \
 && for crate in src sandbox/src; do \
      echo '//! Nothing yet.' | tee $crate/lib.rs >$crate/main.rs && echo 'fn main() {}' >>$crate/main.rs; \
    done


FROM manifests AS sandbox-build
RUN cargo build --release --locked --package sandbox
COPY sandbox/src sandbox/src
# Cargo goes by the time of change, and that of a checkout may be before that of the layer above.
RUN touch sandbox/src/lib.rs sandbox/src/main.rs \
 && cargo build --release --locked --package sandbox


# Not distroless: sqlite3 is how changes are made in the mini-Delius, and has to run where the sandbox does (the two share
# memory, which a mount from a Mac does not). curl is for the health check, socat for the front in docker-compose.yml.
FROM debian:bookworm-slim AS sandbox
RUN apt-get update \
 && apt-get install -y --no-install-recommends curl socat sqlite3 \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 2000 -g 2000 /data
COPY --from=sandbox-build /build/target/release/sandbox /usr/local/bin/
LABEL maintainer="dps-hmpps@digital.justice.gov.uk" \
      org.opencontainers.image.title="probation-offender-events-sandbox" \
      org.opencontainers.image.description="A mini-Delius with community-api, hmpps-auth and an SNS topic, for local use" \
      org.opencontainers.image.source="https://github.com/ministryofjustice/probation-offender-events" \
      org.opencontainers.image.licenses="MIT"
# From outside the container it is reached by any address. Mount a volume on /data to keep the database.
ENV SANDBOX_BIND=0.0.0.0 SANDBOX_DATABASE=/data/delius.sqlite
USER 2000:2000
EXPOSE 8090 8095 8096 4575
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:8096/health/ping", "-o", "/dev/null", "http://127.0.0.1:8090/auth/health/ping"]
ENTRYPOINT ["sandbox"]
CMD ["serve"]


FROM manifests AS service-build
RUN cargo build --release --locked --package probation-offender-events
COPY src src
RUN touch src/lib.rs src/main.rs \
 && cargo build --release --locked --package probation-offender-events


# The C library and the certificates of the authorities; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=service-build /build/target/release/probation-offender-events /usr/local/bin/
# Kubernetes' runAsNonRoot believes only in numbers; 2000 is the number in all our charts.
USER 2000:2000
EXPOSE 8080
# Kubernetes has probes of its own; this is for docker and docker-compose.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/probation-offender-events", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/probation-offender-events"]
# Different in each build, so last. What the service shows in /info.
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
