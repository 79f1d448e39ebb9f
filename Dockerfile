# syntax=docker/dockerfile:1
#
# The `brigade` command in a small image: no shell, no root.
#
#   docker build -t brigade .
#   docker run --rm -p 127.0.0.1:7420:7420 -v brigade:/var/lib/brigade brigade
#
# Without arguments it serves the HTTP API and the dashboard; any other subcommand is an argument:
# `docker run .. brigade queues`. The token of the first start is in /var/lib/brigade, which is a
# volume. `--insecure` there: encryption is the job of what publishes the port.
#
# As the first process of the container, `brigade serve` has no children, and `brigade work` reaps
# the orphans of its programs, so no other init is needed. An image with programs for `brigade work`
# is made on the programs' own base:
#
#   FROM python:3.12-slim
#   COPY --from=brigade /usr/bin/brigade /usr/bin/brigade
#   ENTRYPOINT ["brigade", "work", "emails", "--", "python3", "/app/send.py"]

FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
# rust-toolchain.toml asks for the newest stable compiler; the image has the oldest one that works.
ENV RUSTUP_TOOLCHAIN=1.95.0
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package brigade-cli \
    && install -D --strip --mode=0755 target/release/brigade /image/usr/bin/brigade \
    && install -d --mode=0700 /image/var/lib/brigade

# glibc, certificates of authorities and time zones, and a user `nonroot` (65532).
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build --chown=0:0 /image/usr/bin/brigade /usr/bin/brigade
COPY --from=build --chown=65532:65532 /image/var/lib/brigade /var/lib/brigade
# Where the default job file and the token are: /var/lib/brigade.
ENV XDG_DATA_HOME=/var/lib
VOLUME ["/var/lib/brigade"]
USER 65532:65532
EXPOSE 7420
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/brigade"]
CMD ["serve", "--listen", "0.0.0.0:7420", "--insecure"]
