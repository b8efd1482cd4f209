"""The simulator: scenes, motion, textures, light, and the sensor that sees them."""
