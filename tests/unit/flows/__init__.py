"""The pure part of flows, and the kernels that compute it, without a store."""
