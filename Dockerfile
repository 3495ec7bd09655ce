# One image for all roles: http, dicom, worker. Built from this folder; runs as a plain user.
FROM python:3.11.7-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/interop
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY profiles profiles
# EXTRAS=ai adds torch and MONAI, which only the worker role uses.
ARG EXTRAS=""
RUN /opt/interop/bin/pip install --no-cache-dir -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11.7-slim-bookworm
RUN useradd --system --uid 65532 --create-home --home-dir /var/lib/interop interop
COPY --from=build /opt/interop /opt/interop
ENV PATH=/opt/interop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INTEROP_DATA_DIR=/var/lib/interop
USER interop
WORKDIR /var/lib/interop
VOLUME /var/lib/interop
EXPOSE 8080 11112
ENTRYPOINT ["interop"]
CMD ["serve"]
