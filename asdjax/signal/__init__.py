"""Signal processing on the device: STFT, filterbank, SpecAugment and the views of a clip."""
