"""RouterDC: one vector per arm, two contrastive losses."""
