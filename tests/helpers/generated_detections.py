"""Generated data sets with detections, of every kind that evaluation may meet."""

from __future__ import annotations

import numpy as np


def generate(seed: int, num_images: int = 12, num_classes: int = 4):
    """Return COCO annotations and results: crowds, equal scores, empty images and classes.

    Every fifth case has no objects in most images, every seventh few detections; in every other
    case scores are of one decimal, so that many are equal, and boxes of whole pixels.
    """
    random = np.random.default_rng(seed)
    coarse = seed % 2 == 1
    categories = [{"id": 3 * i + 1, "name": f"class {i}"} for i in range(num_classes)]
    # A class without objects, one without detections.
    used = categories[: num_classes - seed % 3 // 2]
    images, annotations, results = [], [], []
    for number in random.permutation(num_images):
        image = {"id": int(number) * 7, "file_name": f"{number}.jpg", "width": 200, "height": 160}
        images.append(image)
        for _ in range(random.integers(0, 1 if seed % 5 == 4 and number else 9)):
            width, height = random.choice([10, 40, 120]) * random.uniform(0.5, 1.2, 2)
            x, y = random.uniform(0, 150), random.uniform(0, 120)
            box = np.array([x, y, width, height]).round(0 if coarse else 3)
            category = used[random.integers(len(used))]["id"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(random.random() < 0.1),
                }
            )
            for _ in range(0 if seed % 7 == 6 else random.integers(0, 4)):
                moved = box + random.normal(0, random.choice([0, 2, 15]), 4) * [1, 1, 0.5, 0.5]
                moved[2:] = np.abs(moved[2:])
                other = categories[random.integers(1, num_classes)]["id"]
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if random.random() < 0.7 else other,
                        "bbox": moved.round(0 if coarse else 3).tolist(),
                        "score": float(random.random().__round__(1 if coarse else 6)),
                    }
                )
        for _ in range(random.integers(0, 4)):
            box = random.uniform(0, 100, 4).round(0 if coarse else 3).tolist()
            category = categories[random.integers(1, num_classes)]["id"]
            score = float(random.random().__round__(1 if coarse else 6))
            results.append(
                {"image_id": image["id"], "category_id": category, "bbox": box, "score": score}
            )
    order = random.permutation(len(results))
    truth = {"images": images, "annotations": annotations, "categories": categories}
    return truth, [results[i] for i in order]
