// What the simulated sensor is given: a scene, the pixel's parameters, and when the frame camera exposes.
//
// Host only. A scene is a textured plane (wrapped around, seen through an affine map) with sprites in front of it.
#pragma once
#include "../neuron/prelude.cuh"

// "Map" is a row of six numbers (a, b, c, d, e, f): texel u = a * x + b * y + c, v = d * x + e * y + f for the pixel
// centred at (x, y).
struct SensorScene {
  int height, width;
  int n_steps, step_us;           // events lie in [0, n_steps * step_us)
  int n_sprites, n_frames, n_sub;  // n_sub: samples averaged per exposure
  int plane_size;                 // side of the background, a power of two
  int n_threads, band_rows;
  const float* plane_log;         // [S + 1, S + 1]; the last row and column repeat the first
  const float* plane_rgb;         // [S + 1, S + 1, 4] linear intensity, fourth channel unused
  const double* plane_map;        // [n_steps + 1, 6]
  const float* const* sprite_log;  // n_sprites pointers to [h, w, 2]: log-intensity, opacity; opacity 0 on the border
  const float* const* sprite_rgb;  // n_sprites pointers to [h, w, 4]: linear RGB, opacity
  const int* sprite_size;         // [n_sprites, 2] h, w
  const int* sprite_mode;         // [n_sprites] 0: covers what lies behind, 1: adds to its log-intensity (a shadow)
  const double* sprite_map;       // [n_steps + 1, n_sprites, 6]
  const int* sprite_rect;         // [n_steps + 1, n_sprites, 4] x0, y0, x1, y1 of pixels it may touch, on the sensor
  const float* light_log;         // [n_steps + 1] log of the illumination
  double theta_on, theta_off, mismatch, jitter;  // contrast thresholds; relative spreads per pixel and per event
  double leak_per_s;              // drift of the reference, log units a second
  double shot_hz, shot_level;     // noise rate in the dark; intensity at which it has halved
  double hot_share, hot_hz;
  double refractory_us;
  double cutoff_hz, cutoff_level;  // bandwidth in bright light; intensity at which it has halved
  had_u64 seed;
  had_i64 max_events;
  const int* frame_steps;         // [n_frames, n_sub] render steps of each exposure
  const float* frame_gain;        // [n_frames] linear value of intensity 1; full scale is 1
  double full_well, read_noise;   // electrons at full scale; read-out noise as a share of full scale
  had_u8* frames;                 // [n_frames, H, W, 3]
};

// A scene's events: `owner` holds them until had_sensor_free; had_sensor_copy writes `count` of them to t, x, y, p.
struct SensorEvents {
  void* owner;
  had_i64* t;
  had_u16 *x, *y;
  had_u8* p;
  had_i64 count;
};
