"""Pictures: boxes on events as film, gif or png (`render`), and figures (`plots`)."""

from had_snn.viz.render import draw_box, draw_text, event_image, overlay_frames, spike_strip, write_image, write_video

__all__ = ["draw_box", "draw_text", "event_image", "overlay_frames", "spike_strip", "write_image", "write_video"]
