"""From the network's input size back to the wanted output size."""

from ..structures import Instances


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """Scale `pred_boxes` to an image of the given size in pixels, clip, and drop empty ones."""
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    scaled.pred_boxes.scale(output_width / width, output_height / height)
    scaled.pred_boxes.clip(scaled.image_size)
    return scaled[scaled.pred_boxes.nonempty()]
