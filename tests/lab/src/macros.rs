//! Macros of the suites.

/// One test for each line: its name and the arguments of `run`, which returns an [`anyhow::Result`]. All of them belong
/// to the lane `kernel` or `vm`.
///
/// ```text
/// opb_lab::cases! { kernel, nothing_gets_past:
///     nothing_gets_past_native_xdp(Hook::Xdp)
///     nothing_gets_past_clsact(Hook::Clsact)
/// }
/// ```
#[macro_export]
macro_rules! cases {
    (kernel, $($rest:tt)+) => { $crate::cases!(@ "root: cargo xtask test --lane kernel", $($rest)+); };
    (vm, $($rest:tt)+) => { $crate::cases!(@ "vm: cargo xtask test --lane vm", $($rest)+); };
    (@ $why:literal, $run:ident: $($name:ident $arguments:tt)+) => {$(
        #[test]
        #[ignore = $why]
        fn $name() -> anyhow::Result<()> {
            $run $arguments
        }
    )+};
}

/// Lets a value that holds a node, and more, be used as the node.
#[macro_export]
macro_rules! deref {
    ($outer:ty, $field:tt: $inner:ty) => {
        impl std::ops::Deref for $outer {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.$field
            }
        }

        impl std::ops::DerefMut for $outer {
            fn deref_mut(&mut self) -> &mut $inner {
                &mut self.$field
            }
        }
    };
}
