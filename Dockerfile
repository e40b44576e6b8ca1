# A static binary in an empty image: no shell, no libc, numeric user, read-only root.
#   docker build --build-arg COMMIT=$(git rev-parse --short HEAD) -t tidegate .
#   docker run --read-only --cap-drop ALL tidegate run GATEWAY --listen 0.0.0.0:4000 --allow-any
FROM rust:1-bookworm AS build
ARG COMMIT=unknown
WORKDIR /src
COPY . .
# With a target named, the flag holds for the binary and not for build scripts and macros.
RUN TARGET="$(uname -m)-unknown-linux-gnu" \
    && TIDEGATE_COMMIT="$COMMIT" RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --release --locked --target "$TARGET" \
    && install -D "target/$TARGET/release/tidegate" /out/tidegate

FROM scratch
# The authorities that `upstream_tls = "verify-…"` goes by where no tls_ca is named.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tidegate /tidegate
USER 65532:65532
EXPOSE 4000
ENTRYPOINT ["/tidegate"]
CMD ["--help"]
