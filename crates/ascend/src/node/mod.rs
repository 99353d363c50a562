//! Who this node is: identity, super-pod ids, NIC addresses.
