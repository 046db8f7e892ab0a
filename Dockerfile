# Build: one static binary. glibc can be linked statically because nothing here looks up host names
# but the health check, which asks an address.
ARG RUST_IMAGE=docker.io/library/rust:1-slim-bookworm
FROM ${RUST_IMAGE} AS build
WORKDIR /src
# Dependencies first, with an empty program, so that a change of the source does not build them again.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/attack \
 && echo 'fn main() {}' | tee src/main.rs benches/attack/main.rs > benches/collect.rs \
 && touch src/lib.rs
# In a static program getrandom cannot look up the function of libc and would open /dev/urandom.
ENV RUSTFLAGS="-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\""
# The target is named so that the flag does not reach the macros of the build itself.
RUN TARGET="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --release --locked --target "$TARGET"
COPY src ./src
RUN TARGET="$(rustc -vV | sed -n 's/^host: //p')" \
 && touch src/main.rs src/lib.rs \
 && cargo build --release --locked --bin mediatally --target "$TARGET" \
 && mkdir -p /image/data /image/backups /image/config \
 && cp "target/$TARGET/release/mediatally" /image/mediatally
COPY config/mediatally.toml /image/config/mediatally.toml

# Run: nothing but the binary, its settings, the data folder and one for backups; no shell, not root. A new volume
# takes the owner of the folder that it is mounted at.
FROM scratch
COPY --from=build --chown=65532:65532 /image/data /data
COPY --from=build --chown=65532:65532 /image/backups /backups
COPY --from=build /image/config /config
COPY --from=build /image/mediatally /mediatally
USER 65532:65532
WORKDIR /
ENV MEDIATALLY_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# Liveness, not readiness: a full disk must not restart the container.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/mediatally", "healthcheck"]
ENTRYPOINT ["/mediatally"]
