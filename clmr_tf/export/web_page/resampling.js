// Halves the sample rate. The short filters of browsers change embeddings (cosines down to 0.985 with Chromium's), so a
// song is decoded at twice the rate of the model, where they leave the frequencies of the model alone.

export const MARGIN = 160;

// As soxr's quality VHQ, with which clmr_tf resamples (clmr_tf/audio/resampling.py), but with twice the width of the
// roll-off, which halves the time: a sinc for the frequency of half amplitude, times a Gaussian for the roll-off; both
// in cycles per sample before halving.
const CENTRE = 0.9557 / 4;
const WIDTH = 0.0202 / 4;
const response = (distance) => {
  const angle = 2 * Math.PI * CENTRE * distance;
  const sinc = distance ? Math.sin(angle) / angle : 1;
  return sinc * Math.exp(-((2 * Math.PI * WIDTH * distance) ** 2) / 2);
};
const HALF = Float64Array.from({ length: MARGIN + 1 }, (_, distance) => response(distance));
const GAIN = HALF.reduce((sum, value) => sum + 2 * value, -HALF[0]);
const FILTER = HALF.map((value) => value / GAIN);

// `samples` begins and ends with MARGIN samples that are needed only by the filter.
export function halveRate(samples) {
  const halved = new Float32Array(samples.length / 2 - MARGIN);
  for (let place = 0; place < halved.length; place++) {
    const centre = 2 * place + MARGIN;
    let sum = FILTER[0] * samples[centre];
    for (let distance = 1; distance <= MARGIN; distance++) {
      sum += FILTER[distance] * (samples[centre - distance] + samples[centre + distance]);
    }
    halved[place] = sum;
  }
  return halved;
}
