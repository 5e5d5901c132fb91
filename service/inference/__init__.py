"""From bytes to probabilities: decoding, batches, and the model they run on."""
