"""Methods of training and pruning, one package or file each."""
