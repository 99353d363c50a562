//! NPUs and hosts over HCCS, RoCE and UB, through HIXL.
