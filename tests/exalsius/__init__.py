"""exalsius: a doubled control plane, and the driver that asks it."""
