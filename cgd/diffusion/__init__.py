"""Forward process, timestep sampling and reverse processes."""
