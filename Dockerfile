# syntax=docker/dockerfile:1
# The official Airflow image with this provider; docker-compose.yaml and the Helm chart run it.
ARG AIRFLOW_IMAGE=apache/airflow:3.3.2-python3.12

FROM ${AIRFLOW_IMAGE} AS wheel
COPY --chown=airflow:0 pyproject.toml README.md LICENSE /tmp/provider/
COPY --chown=airflow:0 plugins /tmp/provider/plugins
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /tmp/dist /tmp/provider

FROM ${AIRFLOW_IMAGE} AS airflow
COPY --from=wheel /tmp/dist /tmp/dist
# Airflow's own version is named, so that nothing replaces it.
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" \
      "apache-airflow-providers-amazon[s3fs]==9.39.0" /tmp/dist/*.whl && \
    mkdir -p /opt/airflow/auth /opt/airflow/music
ENV PYTHONPATH=/opt/airflow

# The simulator of the API, for a stack without a key; never part of the image that goes to production.
FROM airflow AS simulator
RUN pip install --no-cache-dir lameenc==1.9.0 numpy==2.4.6 pillow==13.0.0 && mkdir -p /opt/airflow/simulator
COPY include /opt/airflow/include
