# Trains, evaluates, detects and exports on CPUs. From the repository's root:
#     docker build -f docker/cpu.Dockerfile -t sap-detr:cpu .
#     docker run --rm -v "$PWD":/data sap-detr:cpu predict --weights small_sap_detr --input /data
FROM python:3.12-slim
# The build for CPUs is smaller: give pip's arguments for it, which pytorch.org lists, as
#     --build-arg TORCH="torch torchvision ..."
ARG TORCH="torch torchvision"
WORKDIR /opt/sap-detr
COPY . .
RUN pip install --no-cache-dir -c constraints.txt setuptools wheel \
    && pip install --no-cache-dir -c constraints.txt $TORCH \
    && pip install --no-cache-dir -c constraints.txt --no-build-isolation '.[export,openvino,video]' \
    && sap-detr install-detectron2 \
    && useradd --create-home detr
USER detr
WORKDIR /data
ENTRYPOINT ["sap-detr"]
