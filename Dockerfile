# One image for every worker. It contains TensorFlow, the job and the dataset, so pods need no network.
#   --target cpu   the default
#   --target gpu   adds CUDA's libraries; the node provides the driver
# --build-arg BASE=python:3.11-slim-bookworm@sha256:<digest> pins the base image.
ARG BASE=python:3.11-slim-bookworm

# Build stages. The final stages copy from them and run nothing.
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/install.sh /requirements/
COPY requirements/strip.py /requirements/

# Dependencies before source: they change rarely and take most of the time and space.
FROM build AS packages-cpu
COPY requirements/cpu.txt /requirements/
RUN /requirements/install.sh /requirements/cpu.txt

FROM build AS packages-gpu
COPY requirements/gpu.txt /requirements/
RUN /requirements/install.sh /requirements/gpu.txt

# chmod: the files must be readable for the user below, whatever the umask of the host.
# Training reads only a dataset's decoded arrays, so its example files stay out. Earlier versions made no arrays.
FROM build AS data
COPY data /data
RUN for folder in /data/*/; do \
      [ -d "${folder}decoded" ] || \
      { echo "data/ has no decoded arrays: run \`python -m job data --dataset $(basename "$folder")\`"; exit 1; }; \
    done; \
    rm -rf /data/*/[0-9]*.*.* && chmod -R a+rX /data

# A stage of its own: after a change of the code, nodes have all layers but this one. Bytecode is compiled here because
# the root may be read-only. checked-hash: a model.py that is mounted over this one must win over the bytecode.
FROM build AS app
COPY job /app/job
RUN chmod -R a+rX /app && python -m compileall -q --invalidation-mode checked-hash /app

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="mnist-job" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="One worker of a distributed batch training job: TensorFlow on MNIST"
# In /, the default folders of the flags, data and output, are /data and /output. The user is a number, because Kubernetes
# can verify only for a number that it is not root. A new volume on /output takes over the owner of the folder.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    HOME=/tmp
WORKDIR /
RUN install -d -o 65532 -g 65532 /output
USER 65532:65532
EXPOSE 2222 9100
# The first process is the supervisor: it receives signals, and its exit code is the container's.
ENTRYPOINT ["python", "-m", "job"]
CMD ["train"]

FROM runtime AS gpu
# GKE mounts NVIDIA's driver there.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
COPY --from=packages-gpu /opt/venv /opt/venv
COPY --from=data /data /data
COPY --from=app /app /app

# A build without --target makes the last stage.
FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=data /data /data
COPY --from=app /app /app
