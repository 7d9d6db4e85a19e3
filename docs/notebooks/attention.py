# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # From an image to attention
#
# A small SAP-DETR, which comes with the package, looks at a generated picture. What does it
# find, and where did it look? As a notebook: `pip install jupytext notebook`, then
# `jupytext --to ipynb attention.py` and `jupyter notebook attention.ipynb`.

# %%
import matplotlib.pyplot as plt
import numpy as np

from sap_detr.data.shapes.drawing import CLASS_NAMES, draw_image
from sap_detr.detector import Detector
from sap_detr.visualization import explain

# %% [markdown]
# ## A picture and what is found in it
#
# `Detector` takes arrays, paths, PIL images and more, and returns Detectron2's `Instances`.

# %%
image, shapes = draw_image(np.random.RandomState(6), height=64, width=96, max_objects=5)
detector = Detector("small_sap_detr")
[found] = detector(image, threshold=0.3)
for box, score, number in zip(found.pred_boxes, found.scores, found.pred_classes, strict=True):
    print(f"{CLASS_NAMES[number]:10} {score:.2f}  {[round(side) for side in box.tolist()]}")

# %%
plt.imshow(detector.draw(image, found))
plt.axis("off")
plt.show()

# %% [markdown]
# ## The queries behind the detections
#
# `explain` runs the model once more and keeps what its queries did: L layers, Q queries, M heads.

# %%
explanation = explain(detector.predictor, image)
query = explanation.detected[0]
print(f"the best detection comes from query {query} of {explanation.boxes.shape[1]}")
for layer, box in enumerate(explanation.boxes[:, query], 1):
    class_name = CLASS_NAMES[explanation.classes[layer - 1, query]]
    score = explanation.scores[layer - 1, query]
    print(f"after layer {layer}: {class_name} {score:.2f}, box {box.round(3)}")

# %% [markdown]
# A query of SAP-DETR has a point that moves inside its cell of a grid.

# %%
points = explanation.points[:, query]
print("its point, as fractions of the image, after each layer:")
print(points.round(3))

# %% [markdown]
# ## Where it looked
#
# Weights of the memory's cells, for each head. Each head's weights sum to 1.

# %%
kept = list(explanation.queries).index(query)
attention = explanation.attention[-1][kept]
print("heads, rows and columns of the memory:", attention.shape)
assert np.allclose(attention.sum(axis=(1, 2)), 1, atol=1e-5)

figure, axes = plt.subplots(2, 4, figsize=(10, 4))
height, width = image.shape[:2]
for head, (axis, weights) in enumerate(zip(axes.flat, attention, strict=True), 1):
    axis.imshow(image)
    axis.imshow(weights, alpha=0.6, extent=(0, width, height, 0), cmap="magma")
    axis.set_title(f"head {head}")
    axis.axis("off")
figure.savefig("attention.png")

# %% [markdown]
# All of it, for every layer and head, as a page to click through:
# `sap-detr view --weights small_sap_detr --input photo.jpg`.
