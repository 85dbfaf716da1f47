"""Reading, matching, preparing, splitting and hiding paired ST + scRNA-seq data."""
