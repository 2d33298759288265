# One image for every worker: TensorFlow, the job, and the dataset, so that pods need no network.
#   --target cpu   the default
#   --target gpu   the same with CUDA's libraries; the node brings the driver
# For the same base for ever, name it by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:<digest>
ARG BASE=python:3.11-slim-bookworm

# What builds stays behind in stages of its own: the final ones copy from them and run nothing.
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/install.sh /requirements/

# Dependencies before source: they change seldom, and take the time and nearly all of the space.
FROM build AS packages-cpu
COPY requirements/cpu.txt /requirements/
RUN /requirements/install.sh /requirements/cpu.txt

FROM build AS packages-gpu
COPY requirements/gpu.txt /requirements/
RUN /requirements/install.sh /requirements/gpu.txt

# Readable to the user below whatever the host's umask; bytecode now, for the job may run on a read-only root. It is
# compared with its source, so that a model.py mounted over the one here is the one that runs.
FROM build AS content
COPY data /data
COPY job /app/job
RUN chmod -R a+rX /data /app \
    && python -m compileall -q --invalidation-mode checked-hash /app

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="mnist-job" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="One worker of a distributed batch training job: TensorFlow on MNIST"
# In / the flags' defaults, data and output, are /data and /output. A number as user, for Kubernetes can tell only of a
# number that it is not root. A new volume on /output takes the folder's owner over.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    HOME=/tmp
WORKDIR /
RUN install -d -o 65532 -g 65532 /output
USER 65532:65532
EXPOSE 2222 9100
# The first process is the supervisor itself: signals reach it, and its exit code is the container's.
ENTRYPOINT ["python", "-m", "job"]
CMD ["train"]

FROM runtime AS gpu
COPY --from=packages-gpu /opt/venv /opt/venv
COPY --from=content /data /data
COPY --from=content /app /app

# The last is what a build without --target makes.
FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=content /data /data
COPY --from=content /app /app
