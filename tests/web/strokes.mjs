// Hand-drawn digits: strokes whose points are fractions of the board's side.

/** Points on an ellipse, from one angle to another in degrees clockwise from 3 o'clock. */
function arc(centreX, centreY, radiusX, radiusY, from, to) {
  return Array.from({ length: 13 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / 12) * Math.PI) / 180;
    return [centreX + radiusX * Math.cos(angle), centreY + radiusY * Math.sin(angle)];
  });
}

export const DIGITS = {
  0: [arc(0.5, 0.5, 0.2, 0.33, -90, 270)],
  1: [[[0.52, 0.18], [0.5, 0.5], [0.48, 0.82]]],
  2: [[...arc(0.5, 0.34, 0.19, 0.16, 190, 380), [0.5, 0.62], [0.3, 0.8], [0.72, 0.79]]],
  3: [[...arc(0.48, 0.34, 0.18, 0.16, 210, 440), ...arc(0.48, 0.67, 0.21, 0.17, -80, 150)]],
  4: [[[0.42, 0.18], [0.26, 0.56], [0.74, 0.55]], [[0.62, 0.36], [0.58, 0.84]]],
  7: [[[0.28, 0.25], [0.7, 0.23], [0.56, 0.52], [0.45, 0.82]]],
};
