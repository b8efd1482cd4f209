"""Pictures: boxes on events (`render`), films and files (`film`), figures (`plots`)."""

from had_snn.viz.film import contact_sheet, encode_gif, encode_png, write_image, write_video
from had_snn.viz.render import draw_box, draw_text, event_image, overlay_frame, overlay_frames, spike_strip

__all__ = [
    "contact_sheet",
    "draw_box",
    "draw_text",
    "encode_gif",
    "encode_png",
    "event_image",
    "overlay_frame",
    "overlay_frames",
    "spike_strip",
    "write_image",
    "write_video",
]
