//! Threads can share a cache exactly if its values and its clock allow it. A lease can be sent
//! wherever its cache can be shared.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::RefUnwindSafe;
use std::sync::MutexGuard;

use static_assertions::{assert_impl_all, assert_not_impl_any};
use trust_key_cache::{
    BootClock, BuildError, Builder, Clock, CoarseClock, KeyCache, KeyHash, Lease, ManualClock,
    OwnedLease, ParseKeyHashError, ReadLease, Renewal,
};
use uuid::Uuid;

type NotSend = PhantomData<MutexGuard<'static, u8>>;
type NotSync = Cell<u8>;

assert_impl_all!(KeyCache<Uuid>: Send, Sync);
assert_impl_all!(KeyCache<Uuid, ManualClock>: Send, Sync);
// The boxed function of `entry_ttl` does not remove this trait.
assert_impl_all!(KeyCache<Uuid>: RefUnwindSafe);
// A value may be dropped by another thread than the one that stored it, and several threads read it
// at once. So a value needs both traits.
assert_not_impl_any!(KeyCache<NotSend>: Send, Sync);
assert_not_impl_any!(KeyCache<NotSync>: Send, Sync);
// The clock stays in the cache, so it needs only the trait of the cache itself.
assert_impl_all!(KeyCache<Uuid, NotSync>: Send);
assert_not_impl_any!(KeyCache<Uuid, NotSync>: Sync);
assert_impl_all!(KeyCache<Uuid, NotSend>: Sync);
assert_not_impl_any!(KeyCache<Uuid, NotSend>: Send);

assert_impl_all!(Lease<'static, Uuid>: Send, Sync);
assert_not_impl_any!(Lease<'static, Uuid, NotSync>: Send);
// An owned lease may drop the cache, and reads its clock.
assert_impl_all!(OwnedLease<Uuid>: Send, Sync);
assert_not_impl_any!(OwnedLease<Uuid, NotSync>: Send);
assert_not_impl_any!(OwnedLease<Uuid, NotSend>: Send);
// Threads share a read lease and its clock. A renewal only borrows them.
assert_impl_all!(ReadLease: Send, Sync);
assert_impl_all!(ReadLease<NotSync>: Send);
assert_not_impl_any!(ReadLease<NotSync>: Sync);
assert_impl_all!(Renewal<'static>: Send, Sync);
assert_not_impl_any!(Renewal<'static, NotSync>: Send);
assert_impl_all!(Builder<Uuid>: Send, Sync);
assert_impl_all!(KeyHash: Copy, Send, Sync, Unpin, std::hash::Hash, subtle::ConstantTimeEq);
assert_impl_all!(BuildError: std::error::Error, Send, Sync);
assert_impl_all!(ParseKeyHashError: std::error::Error, Send, Sync, Copy);
assert_impl_all!(CoarseClock: Clock, Copy, Default);
assert_impl_all!(BootClock: Clock, Copy, Default, Send, Sync);
assert_impl_all!(ManualClock: Clock, Clone, Default, Send, Sync);

#[test]
fn a_digest_is_thirty_two_bytes_and_an_optional_one_in_a_const_is_too() {
    const HASH: KeyHash = KeyHash::from_bytes([7; 32]);
    const BYTES: [u8; 32] = HASH.to_bytes();
    assert_eq!(BYTES, [7; 32]);
    assert_eq!(size_of::<KeyHash>(), 32);
}

/// Compiles: a handler of a multi-threaded runtime awaits such a call.
#[test]
fn a_call_that_may_share_a_load_is_send_if_its_loader_is() {
    fn is_send(_: &impl Send) {}
    let (cache, hash) = (KeyCache::<Uuid>::new(), KeyHash::of("key"));
    let load = || std::future::ready(Ok::<_, String>(None));
    is_send(&cache.get_or_try_load_async(&hash, load));
}
