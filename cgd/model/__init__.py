"""The network: autoencoder, tokens, AR steps and Causality Aware Transformer."""
