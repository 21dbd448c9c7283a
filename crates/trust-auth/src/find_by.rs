//! [`FindBy`]: how the row of a key that is not cached is found.

/// How an [`Authenticator`](crate::Authenticator) finds the row of a key that is not cached.
///
/// Either way, the row that is found is fetched by its id, and its digest is compared with the
/// key's in constant time (G9).
///
/// # What the index gives up
///
/// A scan reads every row, and compares each digest in constant time (G8). An index compares the
/// presented digest with stored ones, digit by digit along the path of a tree. So the duration of a
/// miss depends on how many digits of a stored digest match. An attacker who can compute digests
/// searches offline for keys whose digests have a chosen prefix, presents them, and measures. So
/// stored digests become known digit by digit, as far as the noise of the network lets them.
///
/// A digest is no key: nothing is granted for it, and the key of 256 random bits cannot be computed
/// from it. A weak key can be guessed from it. With a pepper (`KeyHasher::peppered`), an attacker
/// cannot compute digests, and chooses no prefix. So use an index with a pepper, and accept no keys
/// without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindBy {
    /// By a scan of all rows, which requests share.
    #[default]
    Scan,
    /// By an index on the digests: [`TrustStore::find`](crate::TrustStore::find). A miss costs the
    /// same at any number of trusts.
    Index,
}
