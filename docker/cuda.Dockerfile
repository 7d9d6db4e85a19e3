# Trains, evaluates, detects and exports on NVIDIA GPUs; the host needs its driver and the NVIDIA
# Container Toolkit. CUDA itself comes with torch. From the repository's root:
#     docker build -f docker/cuda.Dockerfile -t sap-detr:cuda .
#     docker run --rm --gpus all --shm-size 8g -v "$PWD":/data sap-detr:cuda \
#         train --config-file sap_detr/sap_detr_r50_custom.py --num-gpus 1 dataset.folder=/data \
#         train.init_checkpoint=/data/sap_detr_r50.pth
FROM python:3.12-slim
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/sap-detr
COPY . .
RUN pip install --no-cache-dir -c constraints.txt setuptools wheel \
    && pip install --no-cache-dir -c constraints.txt --no-build-isolation '.[export,video]' \
    && sap-detr install-detectron2 \
    && useradd --create-home detr
USER detr
WORKDIR /data
ENTRYPOINT ["sap-detr"]
