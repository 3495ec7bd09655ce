"""Layout of the panoramic network's input and output, shared by training and inference.

Input: 3 x 256 x 512 (picture 0..1, row coordinate, column coordinate, both -0.5..0.5).
Output: 40 x 256 x 512 logits.
"""

from __future__ import annotations

INPUT_HEIGHT, INPUT_WIDTH = 256, 512
# 0 is background, 1..32 are teeth: (quadrant - 1) * 8 + position.
TOOTH = slice(0, 33)
# Background, crown, root above the bone crest, root in bone: their borders are CEJ and crest.
PART = slice(33, 37)
# Tooth without its rim: keeps neighbours that touch apart.
CORE, CARIES, PERIAPICAL = 37, 38, 39
OUTPUT_CHANNELS = 40

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
