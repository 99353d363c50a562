//! Tables of function pointers: one macro, so that a table's fields, its loading and its list of symbols are one text.

/// A part of a library that is there or not as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The field of the table; `core` is what the table cannot do without.
    pub name: &'static str,
    /// The oldest examined release that has all of it: `8.5.0`, `9.0.0`, `9.1.0`, or `master` for none yet.
    pub since: &'static str,
    /// Its functions.
    pub symbols: &'static [&'static str],
}

/// Where a table's functions are looked up.
pub(crate) trait Symbols {
    /// The address of `name`, if the library exports it.
    fn find(&self, name: &'static str) -> Option<*mut core::ffi::c_void>;
}

/// Declares `Api`, a structure for each optional group, `GROUPS`, and how they are filled.
macro_rules! table {
    (
        $(#[$about:meta])*
        pub struct Api since $core_since:literal { $($core:ident,)* }
        $($(#[$group_about:meta])* $group:ident: $Group:ident since $since:literal { $($symbol:ident,)* })*
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug)]
        #[expect(missing_docs, reason = "each field is the function of its name")]
        #[allow(non_snake_case, reason = "each field is the function of its name")]
        #[non_exhaustive]
        pub struct Api {
            $(pub $core: $core,)*
            $(pub $group: Option<$Group>,)*
        }

        $(
            $(#[$group_about])*
            #[derive(Clone, Copy, Debug)]
            #[expect(missing_docs, reason = "each field is the function of its name")]
            #[expect(non_snake_case, reason = "each field is the function of its name")]
            #[non_exhaustive]
            pub struct $Group {
                $(pub $symbol: $symbol,)*
            }
        )*

        /// The symbols of the table by group; the first group is the one that must be there.
        pub const GROUPS: &[$crate::table::Group] = &[
            $crate::table::Group { name: "core", since: $core_since, symbols: &[$(stringify!($core),)*] },
            $($crate::table::Group {
                name: stringify!($group),
                since: $since,
                symbols: &[$(stringify!($symbol),)*],
            },)*
        ];

        impl Api {
            /// Each group, and whether the loaded library has all of it.
            #[must_use]
            pub fn groups(&self) -> Vec<(&'static $crate::table::Group, bool)> {
                let present = [true, $(self.$group.is_some(),)*];
                GROUPS.iter().zip(present).collect()
            }

            /// Fills the table, or names the required symbol that is missing.
            ///
            /// # Safety
            ///
            /// Whatever `symbols` finds is the function of that name with the signature that this crate declares, and
            /// stays mapped for the life of the process.
            pub(crate) unsafe fn fill(symbols: &dyn $crate::table::Symbols) -> Result<Self, &'static str> {
                Ok(Self {
                    $($core: {
                        let address = symbols.find(stringify!($core)).ok_or(stringify!($core))?;
                        // SAFETY: the caller vouches for the function's signature; both are thin pointers.
                        unsafe { core::mem::transmute::<*mut core::ffi::c_void, $core>(address) }
                    },)*
                    $($group: Self::$group(symbols),)*
                })
            }

            $(
                fn $group(symbols: &dyn $crate::table::Symbols) -> Option<$Group> {
                    Some($Group {
                        $($symbol: {
                            let address = symbols.find(stringify!($symbol))?;
                            // SAFETY: only `fill` calls this, whose caller vouches for the function's signature.
                            unsafe { core::mem::transmute::<*mut core::ffi::c_void, $symbol>(address) }
                        },)*
                    })
                }
            )*
        }
    };
}

pub(crate) use table;
