# docker build -t tidegate:0.1.0 .
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/tidegate
COPY requirements.lock pyproject.toml README.md CHANGELOG.md LICENSE ./
RUN /opt/tidegate/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY autoscaler autoscaler
COPY forecasting forecasting
COPY optimizer optimizer
COPY metrics_adapter metrics_adapter
RUN /opt/tidegate/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /opt/tidegate /opt/tidegate
RUN mkdir -p /var/lib/tidegate && chown 65532:65532 /var/lib/tidegate
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/tidegate
USER 65532:65532
EXPOSE 6443 8080
ENTRYPOINT ["tidegate"]
CMD ["run", "--config", "/etc/tidegate/tidegate.yaml"]
