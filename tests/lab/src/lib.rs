//! What the demo and the tests share.
